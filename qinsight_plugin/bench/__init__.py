"""What scoring costs on this machine: alone, beside its peers, and beside what the machine can do.

Each part is imported by its own name: `stages`, `contest`, `roofline`. The last two need packages
that most users have no use for.
"""
