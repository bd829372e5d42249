"""From a conversation to the text a model reads: templates and what they tell of a model. No I/O."""
