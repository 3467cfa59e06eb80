"""What runs inside a real guest, as source: the agent and the test programs. The image has them in
/usr/lib/gpuvm, run by the guest's own Python; they import nothing of gpuvm but each other.
"""
