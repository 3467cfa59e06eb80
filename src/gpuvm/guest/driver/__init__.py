"""The guest's kernel driver for a GF100: only PCI config, BAR accesses and DMA to the machine's RAM."""
