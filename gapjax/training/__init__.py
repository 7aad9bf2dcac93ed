"""Training: states, pure steps, how they are compiled onto devices, the loop."""
