"""Files: particles, image stacks, maps, locks, logs. A written file is whole or absent."""
