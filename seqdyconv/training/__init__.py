"""What Hugging Face's Trainer lacks and recipes share: import it from the modules in here."""
