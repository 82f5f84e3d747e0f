"""Logit fusion: the logits of several streams of one text, combined into one distribution for its next token."""
