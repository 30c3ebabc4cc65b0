"""The packed memmap cache and what reads batches from it, below TorchRL's buffer. The way in is data/buffer."""
