"""``events`` partitioned by time on PostgreSQL: conversion, partitions ahead of time, retention.

Owns: the partitions, all of them ranges of the event's id, whose first 48 bits are a time. So the
primary key stays the id. Never does: anything on SQLite, or before an operator asked for it.
"""
