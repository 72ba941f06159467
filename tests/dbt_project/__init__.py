"""Tests of the shipped dbt project."""
