"""The demo: a small vision-language model learns look-alike national flags."""
