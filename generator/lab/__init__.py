"""What runs inside a snippet's own process: may import torch, never mkdocs or pydantic."""
