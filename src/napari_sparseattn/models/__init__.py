"""Networks: tensors in, tensors out (torch only)."""
