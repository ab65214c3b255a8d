"""A package by name: a dependency of the SageMaker SDK installs one called ``tests`` too."""
