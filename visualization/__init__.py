"""Motions to look at: films, contact sheets, pages."""
