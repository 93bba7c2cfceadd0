"""People judge dialogues, blind and in pairs: what they are shown, how votes are kept, and what votes say."""
