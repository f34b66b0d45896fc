"""Workers on other machines: the listener that they connect to, and the driver of the engine that starts them."""
