"""PTX instructions to the machine form, one group of instructions a file."""
