"""The language-model judge: its client, prompts and parsers of its answers."""
