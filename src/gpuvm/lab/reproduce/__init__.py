"""The papers' evaluation, run again: each experiment measures, and makes a table, a figure and notes beside the
published figures.

`published` holds what was published, `sweep` runs all workloads in all modes once for the experiments that
read it, one file an experiment does the rest, `run` carries out what was asked for, `page` makes the HTML.
"""
