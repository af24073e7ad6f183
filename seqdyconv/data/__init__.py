"""Data for the recipes: tables of files and the Hub, packaged corpora, batches; import it from the modules in here."""
