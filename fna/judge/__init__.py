"""Another model as a judge of answers: the endpoint, the words that it reads, what it said, kept line by line."""
