"""Migrations of the app for Django."""
