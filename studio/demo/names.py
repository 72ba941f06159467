"""Invented people's names for the demo shop: first names, last names and their ASCII spelling for addresses."""

from __future__ import annotations

FIRST_NAMES = (
    "Ines", "Zoë", "Łukasz", "Amara", "Jonas", "Priya", "Kenji", "María", "Omar", "Freya", "Mateo", "Aiko", "Noah",
    "Lena", "Tariq", "Chloé", "Sven", "Anjali", "Hiro", "Grace", "Diego", "Elif", "Arjun", "Nora", "Ivan", "Yuki",
    "Sofia", "Liam", "Fatima", "Hugo", "Mei", "Oskar", "Ruth", "Samir", "Tess", "Viktor", "Wanda", "Ximena", "Yara",
    "Ben",
)  # fmt: skip
LAST_NAMES = (
    "Alvarez", "Brandt", "Choi", "Dubois", "Eriksson", "Fischer", "García", "Haddad", "Ivanova", "Jensen", "Kapoor",
    "Larsen", "Müller", "Nakamura", "O'Brien", "Petrov", "Quist", "Rossi", "Sato", "Tanaka", "Usman", "Varga",
    "Watson", "Xu", "Yılmaz", "Zimmermann", "Okafor", "Silva", "Nowak", "Bauer", "Smith", "Johnson", "Patel", "Mehta",
    "Kowalski", "Lindqvist", "Moreau", "Bianchi", "Hughes", "Reyes",
)  # fmt: skip

_ASCII = str.maketrans({"ë": "e", "Ł": "l", "í": "i", "é": "e", "ü": "u", "ı": "i", "'": None})


def ascii_name(name: str) -> str:
    """The name as it stands in a mail address: lower case, ASCII letters only."""
    return name.translate(_ASCII).lower()
