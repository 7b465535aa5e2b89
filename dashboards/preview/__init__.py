"""Pictures of the boards with live data, for review: the same queries as Grafana's, drawn by us, not by Grafana."""
