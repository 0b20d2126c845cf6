"""The built-in unreliable upstreams: an application of its own, run alone or embedded on loopback."""
