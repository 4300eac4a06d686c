"""What Prometheus sees: the collector over StatsView, observed histograms, the loopback HTTP server, /proc readings.

Called by the supervisor only. Imports control and types; knows no worker.
"""
