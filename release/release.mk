# What is published, and what must hold before it is. RELEASING.md has the steps.
