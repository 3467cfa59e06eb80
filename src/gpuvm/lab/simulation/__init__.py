"""A fleet in virtual time: many virtual machines replay launch traces on many GPUs under the scheduling
policies that the live dispatcher uses.

`program` compiles traces, `fleet` places machines on GPUs, `engine` simulates one GPU fast and `reference`
the same with SimPy, `statistics` sums up, `run` puts it together on one core or on a cluster.
"""
