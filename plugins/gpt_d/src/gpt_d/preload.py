"""For ``preload = ["gpt_d.preload"]``: LiteLLM in the fork server, imported as quietly as the handler imports it."""

from gpt_d.importing import import_litellm

import_litellm()
