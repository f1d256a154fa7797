"""Checks a finished model: does it copy its training images?"""
