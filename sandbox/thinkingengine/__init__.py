"""ThinkingEngine (TE, formerly TA), as the sandbox plays it."""
