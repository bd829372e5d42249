"""What `a3s-power setup` makes under the home folder: environments of other programs, and which of them to use."""
