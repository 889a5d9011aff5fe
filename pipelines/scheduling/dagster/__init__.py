"""nightload under an orchestrator of others. Each starts the same commands; nothing else in nightload knows of them."""
