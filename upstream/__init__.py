"""One call to one upstream, and all that stands around it. aiohttp's client lives here and only here."""
