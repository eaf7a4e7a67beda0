"""Claims on what exploration rests on in the deep agent."""
