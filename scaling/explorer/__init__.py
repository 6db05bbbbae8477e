"""The page of `isoloss explore`: state.py what is asked, answers.py the numbers, figures.py their figures, page.py the controls around them."""
