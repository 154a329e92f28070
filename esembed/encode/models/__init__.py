"""Reading model folders: configuration, tokenizer, tensors, hub."""
