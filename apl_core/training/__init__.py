"""Learning a prefix on any model behind the three ports: the loop, its settings and its folder."""
