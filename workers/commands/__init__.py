"""The commands of `consent`, by what they are about; each module has its click commands and imports the rest late."""
