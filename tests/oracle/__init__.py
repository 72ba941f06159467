"""A second, independent implementation of the workflow language, and random cases on which both must agree."""
