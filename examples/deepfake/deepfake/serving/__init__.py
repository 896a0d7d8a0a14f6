"""The browser page of app.py: its server, what it accepts, what it answers."""
