"""Fermi (sm_20) machine code: one set of tables, and the decoder, encoder, assembler and disassembler that
read them.
"""
