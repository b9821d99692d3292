"""How fast the engine is on this machine, beside what the machine could do and what others do.

Everything is measured on random weights at full size, made in memory, or on a model that is given.
Engines take turns in one run; what is compared are medians over the turns.
"""
