"""The shipped domains, read once."""

from crslib.dialogue import domain

MOVIES, BOOKS = domain.read("movies"), domain.read("books")
