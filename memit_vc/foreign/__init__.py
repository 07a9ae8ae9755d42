"""The one door for bytes of others: files, JSON, YAML, texts. Each has limits: a refusal needs little memory."""
