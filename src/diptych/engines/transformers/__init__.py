"""Language models in safetensors folders, on transformers."""
