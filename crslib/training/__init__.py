"""Training of the simulators: examples → LoRA by SFT, then DPO → PEFT folder and GGUF. Needs the extra `train`."""
