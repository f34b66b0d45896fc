"""What is told of what happens: events, counters, metrics, memory over time, traces."""
