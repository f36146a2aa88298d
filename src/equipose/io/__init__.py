"""Files: particles, image stacks, maps, locks, logs. What is written is whole or absent."""
