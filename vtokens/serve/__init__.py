"""An OpenAI-compatible server that gives each request the strategies it asks for; `vtokens serve` alone imports it."""
