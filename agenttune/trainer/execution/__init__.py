"""From the queue to the ack: commands come in, are checked again, applied, read back, and answered once."""
