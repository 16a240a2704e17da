"""How course-lm is made: data, training, export and measurement. Learners need none of it; ``course model`` runs it."""
