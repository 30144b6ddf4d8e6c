"""What a compiled program costs: memory, FLOPs, collectives, hours on known hardware."""
