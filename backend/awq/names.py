"""What making and reading 4-bit checkpoints agree on."""

GROUP_SIZE = 128  # inputs that share a scale
BLOCK_TOKENS = 256  # tokens in one calibration sequence
# in a folder of its own, as vLLM loads every safetensors file beside the weights
SCALES_FILE = "channel_scales/awq.safetensors"
